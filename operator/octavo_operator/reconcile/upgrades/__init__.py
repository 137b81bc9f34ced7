"""An upgrade of the operator reaches the services one after the other: `upgrades.maxConcurrent` of them at a time.

What is held back is the pod template as a whole, not the image alone: labels, probes, flags and defaults that a newer
operator renders otherwise would replace the pods of every service just as well.

    rendering.py   what a Deployment was given, kept in its annotation: the truth, written together with the template
    replicas.py    how its replicas do: whether they serve, and why they never will
    turn.py        one service: whether its template follows, stays or goes back; pure
    campaign.py    all services: who may move, and whether anyone may; pure
    upgrades.py    the campaign of this process: read from the Deployments once, then from each pass
    report.py      the condition UpToDate and `status.upgrade`
"""
