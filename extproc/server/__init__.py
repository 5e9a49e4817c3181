"""Inline processing: Envoy's ext_proc protocol, served by the stages that a policy's rules name."""
