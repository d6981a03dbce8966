"""Stable Diffusion taken apart: conditioning, noise, schedules, solvers, guidance, losses and latents."""
