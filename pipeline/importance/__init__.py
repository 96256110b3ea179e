"""Stage `importance`: links get their semantic importance."""
