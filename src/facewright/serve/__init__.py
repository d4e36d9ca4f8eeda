"""The server: a REST API and a page for every declared task.

Nothing about a task is written here: endpoints, forms, checks and the page come from `facewright.tasks`. The rooms, in
the order of a request's way: `server` listens; `guard` refuses what should not get in; `app` has the routes; `forms`
reads what is sent and `requests` makes options of it; `jobs` queues the work and `store` keeps it on disk; `work` does
it, with the networks of `networks`, which stop when they are told to and share their calls (`batching`); `views` makes
what is asked of a result afterwards.
"""
