"""What belongs to one paper each: its numbers, claims, tables, figures, theory, and the experiments that ask for them.

Nothing else imports a study: `catalogue` registers their reports and experiments by name, and a report's code is
imported when it is rendered.
"""
