"""The classes of a report: a table of all, the most confused pairs, the worst mistakes."""

import functools
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from common.base.processor import usable_cores
from common.evaluation import page
from common.evaluation.metrics import hits

MISTAKES = 24
SIDE_OF_PAIR, PHOTOGRAPHS_OF_PAIR = 240, 2  # pixels; photographs of each of the two classes
SIDE_OF_CLASS = 96  # pixels: twice what the page shows, for screens of many pixels
# Of the photographs of the classes, 2.5 kB on average: enough for 5,089 classes. In the page, as
# base64, they take a third more.
MOST_CLASS_BYTES = 16_000_000


class Photographs:
    """The photographs of predictions as small pictures; without images there are none."""

    def __init__(self, predictions, images):
        """Prepare to read from `images`, an `ImageSet` or None."""
        self.predictions, self._images = predictions, images
        self._by_confidence = np.argsort(-predictions.probabilities[:, 0], kind="stable")

    def __bool__(self):
        return self._images is not None

    def read(self, row, **how):
        """Return the thumbnail of a row as `page.make_thumbnail` makes it, or None."""
        if self._images is None:
            return None
        return page.make_thumbnail(self._images.read_image(self.predictions.ids[row].item()), **how)

    def taken(self, true, predicted):
        """Return the rows of one class that were taken for another, the most confident first."""
        chosen = (self.predictions.labels == true) & (self.predictions.ranked[:, 0] == predicted)
        return self._by_confidence[chosen[self._by_confidence]].tolist()

    def typical(self):
        """Return {label: row} with the photograph that was recognised with the most confidence.

        Of a class of which none was recognised, another that could be read, or any.
        """
        predictions = self.predictions
        confidence = predictions.probabilities[:, 0]
        correct = hits(predictions.ranked, predictions.labels, 1)
        found = np.ones(len(correct), bool) if predictions.found is None else predictions.found
        rows = np.lexsort((confidence, correct, found))  # the best of a class come last, and count
        return dict(zip(predictions.labels[rows].tolist(), rows.tolist()))


def mistakes(title, name, scores, categories, photographs):
    """Return the section of the mistakes of which the network was the surest."""
    predictions = photographs.predictions
    groups = _groups(scores, categories)
    items = []
    for row in scores.worst[:MISTAKES] if photographs else ():
        thumbnail = photographs.read(row)
        if thumbnail is None:
            continue
        label = predictions.labels[row].item()
        true = categories[label].name
        lines = [page.span(true, "true name")]
        for guess, probability in zip(predictions.ranked[row, :3], predictions.probabilities[row]):
            style = "true" if guess == label else "wrong"
            lines.append(page.span(f"{categories[guess].name} {probability:.0%}", style))
        lines.append(page.span(f"image {predictions.ids[row]}", "file"))
        content = page.figure(page.picture(thumbnail, true), "<br>".join(lines))
        items.append((content, groups[label]))
    note = "Wrong, and sure of it: the true class, then what the network took it for."
    return page.section(title, page.listed("photographs", items), name=name, note=note)


def pairs(title, name, scores, categories, photographs):
    """Return the section of the pairs of classes that are confused most, side by side."""
    groups = _groups(scores, categories)
    images = {c.label: c.images for c in scores.classes}
    typical = photographs.typical()
    items = []
    for (true, predicted), count in scores.pairs:
        one, other = categories[true].name, categories[predicted].name
        heading = (
            f"<h3>{page.span(one, 'true name')} taken for {page.span(other, 'wrong name')}</h3>\n"
            f'<p class="note">{count:,} of {images[true]:,} images</p>'
        )
        recognised = photographs.taken(predicted, predicted)
        others = recognised or ([typical[predicted]] if predicted in typical else [])
        sides = [
            _side(photographs, photographs.taken(true, predicted), one),
            _side(photographs, others, other),
        ]
        content = f'<div class="sides">{"".join(sides)}</div>' if any(sides) else ""
        items.append((f"{heading}\n{content}", groups[true]))
    note = "Left: photographs that were mistaken. Right: some of the class they were taken for."
    listed = page.listed("pairs", items)
    return page.section(title, listed, name=name, note=note if photographs else "")


def _side(photographs, rows, name):
    thumbnails = (
        photographs.read(row, side=SIDE_OF_PAIR, is_square=True)
        for row in rows[:PHOTOGRAPHS_OF_PAIR]
    )
    pictures = "".join(page.picture(each, name) for each in thumbnails if each is not None)
    if not pictures:
        return "<div></div>" if photographs else ""
    return page.figure(f'<div class="row">{pictures}</div>', page.span(name, "other"))


def classes(title, name, scores, categories, photographs):
    """Return the section with the table of all classes that have images."""
    thumbnails = _class_thumbnails(scores, photographs)
    groups = _groups(scores, categories)
    header = [("class", "text"), ("training images", "number"), ("images", "number")]
    header += [("top-1 error", "number"), ("top-5 error", "number")]
    knows_training = any(c.train_images is not None for c in scores.classes)
    if not knows_training:
        del header[1]
    rows = []
    for c in scores.classes:
        category = categories[c.label]
        facts = [category.supercategory] if category.supercategory else []
        if c.taken_for:
            label, count = c.taken_for
            facts.append(f"{count:,} taken for {categories[label].name}")
        what = page.span(category.name, "name")
        if facts:
            what += page.small(" · ".join(facts))
        if photographs:
            what = page.pictured(thumbnails.get(c.label), what)
        counts = [c.train_images, c.images] if knows_training else [c.images]
        cells = [*map(page.number, counts), page.share(c.top1_error), page.share(c.top5_error)]
        rows.append(page.row(what, *cells, groups=groups[c.label]))
    table = page.table(header, rows, "classes-table", "pictures", sorted_by="top-1 error")
    return page.section(title, table, name=name)


def _class_thumbnails(scores, photographs):
    """Return {label: JPEG} of the classes with the largest errors, as many as there is room for."""
    if not photographs:
        return {}
    typical = photographs.typical()
    labels = [c.label for c in scores.classes]
    read = functools.partial(photographs.read, side=SIDE_OF_CLASS, is_square=True)
    found, num_bytes = {}, 0
    with ThreadPoolExecutor(usable_cores()) as pool:
        for label, thumbnail in zip(labels, pool.map(read, (typical[label] for label in labels))):
            num_bytes += len(thumbnail or b"")
            if thumbnail is not None and num_bytes <= MOST_CLASS_BYTES:
                found[label] = thumbnail
    return found


def _groups(scores, categories):
    """Return {label: {name: value}} of what the filter looks at."""
    return {
        c.label: {"supercategory": categories[c.label].supercategory, "frequency": c.frequency}
        for c in scores.classes
    }
