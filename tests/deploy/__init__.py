"""What is deployed, checked by the tools that will read it: promtool, Prometheus, schemas, kustomize."""
