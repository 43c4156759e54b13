"""Semi-supervised training (section 2.2.6): a detector learns from the annotated images and labels the others.

The probability of each object that it finds weighs the object in the discriminator's loss (equation 15).
"""

from lostgan_train.semi_supervised.stages import complete, parts

__all__ = ["complete", "parts"]
