"""The paper as pure Flax modules: the dilated backbone, the two attention modules, the network."""
