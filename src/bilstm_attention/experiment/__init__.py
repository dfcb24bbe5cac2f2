"""Running and judging: training, scoring, tracking, sweeping."""
