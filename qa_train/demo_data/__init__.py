"""The demo's questions: prose written for this project, in written form (`written/`) and in spoken form (`*.json`)."""
