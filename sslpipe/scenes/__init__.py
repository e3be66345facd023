"""Images with masks and boxes: composed of a split's own images, or annotated as VOC and COCO are."""
