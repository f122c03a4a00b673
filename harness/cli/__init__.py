"""Command lines: one thin module per script, all of them under scripts/."""
