"""Serves custom.metrics.k8s.io: the queue, the batch and the KV use of every engine, for a stock autoscaler.

A process of its own on every replica of the operator. It finds the engines' pods by their labels and scrapes them
itself; it writes nothing but, when it is the last to leave, the APIService's end. Its one rule: a metric is true and
fresh, or it is not given. An autoscaler that is given nothing leaves the replicas as they are.
"""
