.PHONY: types
PARTS := model export runtime quantize evals

# mypy sees the installed layout through links, as core/ is not called gpt2edge.
types:
	@rm -rf build/types && mkdir -p build/types/gpt2edge
	@ln -s $(CURDIR)/core/* build/types/gpt2edge/
	@for part in $(PARTS); do ln -s $(CURDIR)/$$part build/types/gpt2edge/$$part; done
