"""Startup hook of the test environment's interpreters, which lets PyPI's torchvision import with a torch for CPUs.

PyPI's wheel is built for CUDA, and its operators do not load here. The tests do not call them, but they must exist.
"""

from importlib.metadata import PackageNotFoundError, version

try:
    built_for_cpu = version("torchvision").endswith("+cpu")
except PackageNotFoundError:
    built_for_cpu = True

if not built_for_cpu:
    import torch

    _library = torch.library.Library("torchvision", "DEF")
    _library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
