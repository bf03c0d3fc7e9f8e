"""The paper's network as Flax modules: the dilated backbone, the two attention modules and DANet."""
