"""An event of any bus, read by a dialect into a fact: started, ended or noted."""
