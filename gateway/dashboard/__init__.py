"""The pages under `/dashboard`: what a team opens every morning to see what was spent and what was saved."""

PATH = "/dashboard"
