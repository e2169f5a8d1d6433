"""Plain values that layers hand to each other: labels, matchers, batches, frames, results."""
