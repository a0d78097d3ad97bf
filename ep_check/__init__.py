"""Expert-parallel dispatch/combine: conformance against a dense oracle, and timings. Run under torchrun.

Needs torch and the standard library only, so that it runs inside any engine's environment or image:

    python -m torch.distributed.run --nproc-per-node 8 -m ep_check --backend torch-gloo --preset small
"""
