"""The comparison of models of the lecture: baselines, diagnostics, report. Imports torch."""
