"""eca_multi.ultralytics, where ultralytics is installed: make zoo-yolo."""
