"""The mathematical font of pages: the glyphs of STIX Two Math that formulas use, small enough to be embedded in every report.

MathML in a font without mathematical tables has subscripts on top of each other and primes in the wrong place. The font comes with the
package ziamath; its license (OFL) is next to the result. Needs fontTools, which comes with Matplotlib, and brotli.
"""
import importlib.util
from pathlib import Path

from fontTools import subset

TARGET = Path(__file__).parents[1] / "modnb" / "runs" / "assets" / "math.woff2"

LATIN = [*range(0x20, 0x7F), *map(ord, "\xa0¬¯°±·×÷")]
GREEK = [*range(0x391, 0x3CA), *map(ord, "ϑϕϖϰϱϵ")]
ITALIC = [*range(0x1D434, 0x1D468), *range(0x1D6E2, 0x1D71C), ord("ℎ")]
ALPHABETS = [*range(0x1D400, 0x1D434), *range(0x1D49C, 0x1D4B6), *range(0x1D538, 0x1D552), *map(ord, "ℂℍℕℙℚℝℤℬℰℱℋℐℒℳℛ")]
SIGNS = [*map(ord, "–—―‖…′″‴←↑→↔↦⇐⇒⇔∀∂∃∅∇∈∉∋∏∑−∓∖∗∘√∝∞∣∥∧∨∩∪∫∼≃≅≈≠≡≤≥≪≫⊂⊃⊆⊇⊕⊗⊙⊤⊥⋀⋁⋂⋃⋅⋮⋯⋱⌈⌉⌊⌋⟨⟩"), 0x2003, 0x2009, 0x2061, 0x2062, 0x302, 0x303, 0x304, 0x307]


def source():
    "The font file of the installed package."
    found = importlib.util.find_spec("ziamath")
    if found is None:
        raise SystemExit("install ziamath and brotli with pip and run this again")
    return Path(found.submodule_search_locations[0]) / "fonts" / "STIXTwoMath-Regular.ttf"


def make(target):
    "Write the glyphs of `LATIN` to `SIGNS`, with their larger sizes and their forms in scripts."
    options = subset.Options(flavor="woff2", layout_features=["ssty", "dtls", "flac"], hinting=False, notdef_outline=False, name_IDs=[0, 1, 2, 5, 13, 14])
    font = subset.load_font(source(), options)
    cut = subset.Subsetter(options)
    cut.populate(unicodes=[*LATIN, *GREEK, *ITALIC, *ALPHABETS, *SIGNS])
    cut.subset(font)
    subset.save_font(font, target, options)


if __name__ == "__main__":
    make(TARGET)
    print(f"{TARGET.name}: {TARGET.stat().st_size:,} bytes")
