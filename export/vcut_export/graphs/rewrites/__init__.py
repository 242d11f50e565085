"""Rewrites of diffusers' modules before they are traced: what they compute stays the same."""
