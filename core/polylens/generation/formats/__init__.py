"""Files of questions and answers: one format a module, behind ``registry.py`` and ``answer_files.py``."""
