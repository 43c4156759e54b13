"""GauGAN post hoc: the SPADE generator renders our object maps (sections 2.2.3 and 3.4)."""
