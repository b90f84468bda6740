"""The comparison of models of the lecture: baselines, diagnostics, report. It imports torch."""
