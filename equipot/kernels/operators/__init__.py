"""The operations as torch operators: schema, shapes, derivatives, shared by all fused backends."""
