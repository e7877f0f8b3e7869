"""`python -m benchmarks.capacity`: replicas of each stage that a rate of requests needs, by simulation.

`profile` holds the costs of each stage, measured here (`measure`) or derived for a GPU (`roofline`). `processor`,
`link`, `encoder`, `llm` and `system` are the services' own rules in simulated time (SimPy); `simulation` runs a load
through them. `planner` finds the smallest deployment that keeps a latency goal, `validation` compares with runs of the
real services. `report` and `plots` write the results.
"""
