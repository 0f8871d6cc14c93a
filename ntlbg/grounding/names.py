"""Names that the command line knows before anything is loaded."""

TIME_FORMATS = ("numbers", "tokens", "text")
TASKS = ("moment", "highlights", "dense_captions", "grounded_answer")
