"""All that export needs of torch: generator, discriminator, checkpoint and the importer of released weights."""
