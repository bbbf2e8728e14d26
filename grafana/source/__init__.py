"""What the dashboards are made of: expressions, panels, variables, and one module for each dashboard."""
