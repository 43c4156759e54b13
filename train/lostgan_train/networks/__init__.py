"""Networks of LostGAN, and all that export needs of torch.

layers: spectral-normed layers, resizing, initial weights. norms: ISLA-Norm and SPADE. masks: the objects' masks, from
boxes, object vectors and feature maps. blocks: residual blocks of both networks. formulation: the choice of these
parts; reference: that choice by the letter of the paper. generator, discriminator: the networks. checkpoint: files of
either. importer: released weights.
"""
