"""Read an event of any bus with a dialect into a fact: started, ended or noted."""
