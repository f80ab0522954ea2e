"""Names of the tasks and of their architectures; the first is the usual one. `architectures` says more."""

SEGMENTERS = ("upernet", "segformer")
DETECTORS = ("retinanet", "detr", "conditional_detr")
INSTANCE_SEGMENTERS = ("cascade_mask_rcnn", "mask2former")
#: Architectures by task, of the dense ones.
DENSE_TASKS = {
    "semantic_segmentation": SEGMENTERS,
    "detection": DETECTORS,
    "instance_segmentation": INSTANCE_SEGMENTERS,
}
CLASSIFICATION = "classification"
TASKS = (CLASSIFICATION, *DENSE_TASKS)
