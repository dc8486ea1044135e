"""Deploy, demonstrate, audit, measure: thin fronts to code on the shared floor."""
