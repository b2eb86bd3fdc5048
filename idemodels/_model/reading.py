"""When a model reads its second moment: the paper's equations read it one step ahead."""

READINGS = ("causal", "closure", "advanced")
