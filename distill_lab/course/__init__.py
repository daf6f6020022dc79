"""The course's notebooks: made from one source, opened, put back, laid out for nbgrader."""
