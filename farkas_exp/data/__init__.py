"""The data sets: `arrays` in memory, `files` on disk. `build_data` prepares one for the trainer."""
