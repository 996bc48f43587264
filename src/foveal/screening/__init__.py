"""The main job: a folder of scans in, a report out."""
