"""What ships inside the package: the embedded model, the demo's task, their scripts."""
