"""No plugin at all."""

answer = 42
