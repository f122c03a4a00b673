"""Where kernel source comes from: a person's own tree, the distribution, kernel.org."""
