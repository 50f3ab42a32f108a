from nbce_rag import NBCE, Passage

passages = [
    Passage("The ferry across the Lune is run by Ada Fenwick, who bought it in 1931.", title="Ferry"),
    Passage("The lighthouse at Cold Point was built in 1822 by Tom Harrow.", title="Lighthouse"),
    Passage("Bread is baked in Orme every Tuesday, in the oven behind the mill.", title="Bread"),
]
nbce = NBCE.from_pretrained(max_tokens=16)  # the packaged model; or a hub id, a folder, a .gguf file
print(nbce.answer("Who runs the ferry?", passages))
