"""Betas as NSD files them: of volumes and of surfaces (NSD manual, "Functional data (NSD)")."""
