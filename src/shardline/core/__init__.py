"""The ground floor: ids, spans, units and errors. Standard library only."""
