from tests.worker.diffusion.conftest import one_thread, tiny_model, tiny_xl

__all__ = ["one_thread", "tiny_model", "tiny_xl"]
