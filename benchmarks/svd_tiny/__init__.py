"""Training of `svd-tiny`, a small Stable Video Diffusion model, on clips cut from photographs; see ``train``."""
