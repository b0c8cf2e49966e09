// Sample pictures, drawn here: shapes are [colour, path, width of a stroke or nothing for a filled shape]. One is a photo.
const SIZE = 280;
const PAPER = ["#fff", "M0 0h280v280H0z"], PEN = "#234";
const SKY = ["#9cc7ec", "M0 0h280v280H0z"];
const digit = (label, path) => ({label, of: "digit", shapes: [PAPER, [PEN, path, 20]]});
const thing = (label, ...shapes) => ({label, of: "thing", shapes});
const lamp = (colour, y) => [colour, `M116 ${y}a24 24 0 1 0 48 0a24 24 0 1 0 -48 0z`];
const SAMPLES = [
  digit("7", "M75 75C120 80 170 78 205 70C180 120 150 170 135 220"),
  digit("4", "M150 60C125 105 100 140 75 165C120 168 165 166 210 160M170 110C168 150 166 190 165 225"),
  digit("2", "M85 100C90 60 180 50 190 100C195 140 120 180 85 215C130 205 170 212 205 215"),
  digit("two digits", "M40 90C60 85 90 85 115 80C100 120 85 170 78 210M170 90C195 70 240 85 225 120C218 138 200 142 190 144C215 142 245 160 235 190C225 220 180 215 165 200"),
  thing("ship",
    ["#9cc7ec", "M0 0h280v160H0z"], ["#1f5f94", "M0 160h280v120H0z"], ["#222c3a", "M30 150h220l-24 50H62z"],
    ["#f4f4f0", "M80 112h124v38H80z"], ["#f4f4f0", "M104 88h70v24h-70z"], ["#c0392b", "M126 52h24v36h-24z"],
    ["#b33", "M40 172h200l-12 28H62z"]),
  thing("airplane", SKY,
    ["#eef1f4", "M20 140C40 122 200 118 240 128C262 134 262 146 240 152C200 160 40 158 20 140z"],
    ["#c9d1d8", "M110 142L170 142L120 232L98 232z"], ["#d9dfe4", "M128 132L166 132L138 66L122 66z"],
    ["#b8c2cb", "M22 136L52 132L32 84L14 84z"]),
  thing("automobile", ["#cfd6da", "M0 0h280v190H0z"], ["#777c80", "M0 190h280v90H0z"],
    ["#c0272d", "M24 172C26 150 60 146 82 144C104 108 120 104 160 104C196 104 212 122 226 146C250 150 258 158 258 200L24 200z"],
    ["#26323c", "M100 142C114 118 122 116 142 116L142 144z"], ["#26323c", "M152 116C184 114 196 126 208 146L152 144z"],
    ["#16181a", "M50 202a26 26 0 1 0 52 0a26 26 0 1 0 -52 0z"], ["#16181a", "M184 202a26 26 0 1 0 52 0a26 26 0 1 0 -52 0z"],
    ["#b9c0c5", "M64 202a12 12 0 1 0 24 0a12 12 0 1 0 -24 0z"], ["#b9c0c5", "M198 202a12 12 0 1 0 24 0a12 12 0 1 0 -24 0z"]),
  {label: "espresso", of: "thing", photo: "static/coffee.jpg"},
  thing("traffic light", ["#a9cdec", "M0 0h280v280H0z"], ["#333", "M132 214h16v66h-16z"],
    ["#1d1f21", "M96 24q0-12 12-12h64q12 0 12 12v184q0 12-12 12h-64q-12 0-12-12z"],
    lamp("#ff2a1a", 52), lamp("#ffb000", 114), lamp("#17b04a", 176)),
  thing("envelope", ["#8a6a4a", "M0 0h280v280H0z"], ["#f3ead8", "M30 70h220v140H30z"],
    ["#b8a888", "M30 70L140 160L250 70", 4], ["#b8a888", "M30 210L112 138M250 210L168 138", 3]),
  thing("analog clock", ["#d8cfc0", "M0 0h280v280H0z"], ["#222", "M20 140a120 120 0 1 0 240 0a120 120 0 1 0 -240 0z"],
    ["#fdfdf8", "M32 140a108 108 0 1 0 216 0a108 108 0 1 0 -216 0z"],
    ["#111", "M140 40v18M140 222v18M40 140h18M222 140h18M90 53l8 15M190 53l-8 15M90 227l8-15M190 227l-8-15M53 90l15 8M227 90l-15 8M53 190l15-8M227 190l-15-8", 6],
    ["#111", "M140 140L100 90", 9], ["#111", "M140 140L190 75", 6], ["#a00", "M140 140L150 215", 3]),
];

// Those that suit a model: digits where it reads strokes, else what it has a label for.
export function samplesFor(labels, strokes) {
  return SAMPLES.filter(({label, of}) => of === "digit" ? strokes && labels.includes("7") : labels.includes(label)).slice(0, 4);
}

export async function paint(canvas, {shapes, photo}) {
  const pen = canvas.getContext("2d");
  if (photo) {
    const image = new Image();
    image.src = photo;
    await image.decode();
    const side = Math.min(image.width, image.height);
    pen.drawImage(image, (image.width - side) / 2, (image.height - side) / 2, side, side, 0, 0, canvas.width, canvas.height);
    return;
  }
  pen.setTransform(canvas.width / SIZE, 0, 0, canvas.height / SIZE, 0, 0);
  pen.lineCap = pen.lineJoin = "round";
  for (const [colour, path, width] of shapes) {
    pen.fillStyle = pen.strokeStyle = colour;
    pen.lineWidth = width;
    if (width) pen.stroke(new Path2D(path)); else pen.fill(new Path2D(path));
  }
}
