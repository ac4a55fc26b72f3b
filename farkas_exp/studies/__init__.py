"""A study holds what belongs to one paper: its numbers, claims, tables, figures, theory and experiments.

Nothing else imports a study: `catalogue` registers their reports and experiments by name, and a report's code is
imported when it is rendered.
"""
