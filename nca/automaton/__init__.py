"""The automaton: update rule, perception, rollouts, and the random streams they draw from."""
