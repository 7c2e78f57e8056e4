"""Fine-tunes one question-answering model once; knows nothing of sweeps."""
