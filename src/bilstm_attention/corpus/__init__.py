"""From raw files to numbered tokens; knows pandas and NumPy, never TensorFlow."""
